"""The gradient norms of a training: their record, its observer, and the paper's figures."""
