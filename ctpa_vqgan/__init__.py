"""A 3-D VQ-GAN tokenizer for full-resolution CT pulmonary angiography, built on MONAI."""

__version__ = "0.1.0"
