"""Neural tangent and NNGP kernels of networks, empirical and analytic."""
