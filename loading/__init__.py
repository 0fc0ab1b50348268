"""How packages and weights are loaded: public names on demand, the names of wrapped weights.

Knows no paper and imports nothing but Python; every package and model file may import it.
"""
