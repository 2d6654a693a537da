"""The probe: one recorded forward and backward pass. The only room that touches tensors."""
