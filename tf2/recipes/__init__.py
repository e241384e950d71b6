"""Named settings: absl flagfiles, one per published or tested run, with its result."""
