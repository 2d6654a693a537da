"""Gains by quadrature, fans of each layer kind, the variance rule. Nothing here imports torch until it is used."""
