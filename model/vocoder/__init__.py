"""From units to waveforms: the unit HiFi-GAN and its training."""
