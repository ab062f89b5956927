"""On PostgreSQL the unique index of `dedupe_lock` holds only the locks there are.

As a plain unique constraint it took an entry of nothing at each claim and at each outcome of every job, some 5 % of
what the database does for a job. The constraint stays in the models, and in other databases: what it
forbids is the same.
"""

from django.db import migrations

CREATE = "CREATE UNIQUE INDEX jobs_job_dedupe_lock ON jobs_job (dedupe_lock) WHERE dedupe_lock IS NOT NULL"


def narrow(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jobs_job DROP CONSTRAINT jobs_job_dedupe_lock")
        schema_editor.execute(CREATE)


def widen(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX jobs_job_dedupe_lock")
        schema_editor.execute("ALTER TABLE jobs_job ADD CONSTRAINT jobs_job_dedupe_lock UNIQUE (dedupe_lock)")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]

    operations = [migrations.RunPython(narrow, widen)]
