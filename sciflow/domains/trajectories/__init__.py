"""Trajectories: point sets (atoms, bodies, pedestrians) at given times, forecast, interpolated or made from nothing."""
