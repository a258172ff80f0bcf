"""What dynvol costs, beside what it is held against, measured in one run."""
