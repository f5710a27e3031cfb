"""What happens to an event until it is stored and sent on."""
