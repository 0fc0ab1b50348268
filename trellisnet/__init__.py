"""TrellisNet (Bai, Kolter, Koltun 2019)."""
