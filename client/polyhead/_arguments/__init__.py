"""What is wrong with an argument, found before it is sent."""
