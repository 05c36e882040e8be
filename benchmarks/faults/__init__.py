"""What happens when a job is killed, when one of its processes is, and when its input is bad."""
