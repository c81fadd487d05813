"""The gradient norms of a training: their record, its observer, and the paper's figures."""

#: Of the files that figures are written to.
FORMATS = ('png', 'svg')
