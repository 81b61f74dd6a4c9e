"""From waveforms to features: HuBERT with its pretraining, and MFCC."""
