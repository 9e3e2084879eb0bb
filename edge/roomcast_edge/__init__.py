"""What terminates websockets."""
