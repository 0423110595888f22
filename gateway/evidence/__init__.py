"""Evidence of decisions: the log of them, a second IAM beside the first, and what can be read from the log later."""
