"""What each paper's experiments are as commands, one file a paper."""
