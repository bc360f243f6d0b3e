"""A loaded model timed on this machine: what it is asked, its cases, and whose times they are."""
