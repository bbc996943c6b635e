"""The worker process: Faust, assignments, start and stop. It puts the rooms together; none of them imports it."""
