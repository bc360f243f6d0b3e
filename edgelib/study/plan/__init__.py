"""What a grid will take: times of small runs, and what they come to on any number of workers."""
