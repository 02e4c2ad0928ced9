"""The digits with their labels: a class-conditional model that can also do without and be guided.

One training image in five goes without its label, as in the original's SimpleDiffusionColab.

    vdm prepare digits --out DIR && vdm train digits_cond --data DIR --workdir RUN
    vdm sample --workdir RUN --class all --num 100 --guidance 1 --out FILE.png
"""

from dataclasses import replace

from configs import digits

CONFIG = replace(
    digits.CONFIG,
    name="digits_cond",
    model=replace(digits.CONFIG.model, num_classes=10, label_dropout=0.2),
)
