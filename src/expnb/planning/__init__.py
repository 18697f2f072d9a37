"""What can be known before the data: error rates of a policy, how long it takes, and what it is worth."""
