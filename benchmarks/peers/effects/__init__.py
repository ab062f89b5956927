"""What a job that writes one row through the ORM writes."""
