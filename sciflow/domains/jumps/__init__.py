"""Jump processes: paths of finite states in physical time, estimators of their rates, evaluation systems."""
