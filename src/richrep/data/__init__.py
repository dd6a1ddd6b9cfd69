"""Images and labels: where data sets come from, what a split is, and how an image becomes a tensor."""
