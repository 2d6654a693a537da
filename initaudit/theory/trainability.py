"""How far a mean square may drift through depth, as the natural log of its ratio between the two ends.

Six depth scales are the limit of easy training (Schoenholz 2017, arXiv:1611.01232). He's 22-layer Xavier net (-13.2)
still trains, so failure starts above (He et al. 2015, arXiv:1502.01852).
"""

TROUBLE = 6.0
FAILURE = 14.0
