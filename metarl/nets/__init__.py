"""Networks: ordinary modules, used only through ``torch.func.functional_call``."""
