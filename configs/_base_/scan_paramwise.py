"""What the digits' optimizer must know of selective scans.

AdaMuon makes matrices orthogonal, and some of a scan's parameters only look like ones: they are AdamW's, at a fifth of
the rate.
"""

of_scans = dict(use_fallback=True, lr_mult=0.2, decay_mult=0.0)
scan_paramwise = dict(
    custom_keys={f"scan.{parameter}": of_scans for parameter in ("A_log", "D", "dt_bias", "dt_proj", "x_proj")}
)
