"""What a broken picture file can raise while it is read: Pillow's decoders let more through than OSError."""

import struct
import zlib

from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
              OverflowError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError)
