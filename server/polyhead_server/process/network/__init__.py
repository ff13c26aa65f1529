"""The port that receives calls, and its connections."""
