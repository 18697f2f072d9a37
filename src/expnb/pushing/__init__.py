"""From a plan to a flag that was read back: requests and approvals, the push, recovery, kill. Nothing is lost, nothing is done twice."""
