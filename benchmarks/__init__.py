"""What the queue costs and how fast it is, each figure beside the limit or the peer measured in the same run."""
