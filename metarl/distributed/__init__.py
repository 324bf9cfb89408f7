"""Several processes of one run: how they meet, share the tasks, gather the results and end."""
