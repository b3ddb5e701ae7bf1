"""How do I make this model equivariant without touching it? Canonicalization by least energy.

Panigrahi and Mondal 2024, "Improved Canonicalization for Model Agnostic Equivariance" (arXiv 2405.14089), after Kaba et
al. 2023 (arXiv 2211.06489) and Mondal et al. 2023 (arXiv 2310.01647).
"""
