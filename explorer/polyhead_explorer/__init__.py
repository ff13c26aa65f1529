"""A page in the browser that shows the attention of any model that a polyhead server serves."""
