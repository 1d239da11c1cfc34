"""What a suite is read by: how its features relate, and whether its connections are what they say."""
