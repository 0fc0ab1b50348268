"""TNN on images: the DeiT-style trainer of the vision models (Qin et al. 2023, section 4)."""
