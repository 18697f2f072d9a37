"""What was asked: experiments, metrics, policies, flags and priors as values."""
