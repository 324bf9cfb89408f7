"""What a run keeps: files that are whole or refused."""
