"""One HTML file that shows a run, or several beside each other, without a network."""
