"""python compile_ahead.py '[shape, scale, longest, precision, capability, cuda]': `compile_ahead`'s kernels, as JSON.

No GPU needs to be there. A program of its own: in a process of tests, Triton may be the interpreter.
"""

import json
import sys

from caan.runtime.triton.ahead import compile_ahead
from caan.runtime.triton.launch import TooLargeError

try:
    print(json.dumps([kernel._asdict() for kernel in compile_ahead(*json.loads(sys.argv[1]))]))
except TooLargeError:
    print("too large")
