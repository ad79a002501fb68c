def rows(*a): raise NotImplementedError
def crystal_of(*a, **k): raise NotImplementedError
