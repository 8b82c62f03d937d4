"""The shared core: state, spaces, schedules, noise, kernels, processes, solvers and the one sampling loop."""
