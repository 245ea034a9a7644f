"""What kind of thing a box is, as a few strokes around (0, 0), 9 to each side at the most."""

from __future__ import annotations

ICONS = {
    # a sheet with a folded corner
    "file": '<path d="M-6 -8H2L6 -4V8H-6Z"/><path d="M2 -8V-4H6M-3 0H3M-3 4H3"/>',
    # a disk
    "device": (
        '<ellipse cx="0" cy="-5" rx="7.5" ry="3"/>'
        '<path d="M-7.5 -5V5C-7.5 9 7.5 9 7.5 5V-5M-7.5 0C-7.5 4 7.5 4 7.5 0"/>'
    ),
    # there and back
    "socket": '<path d="M-7 -3.5H7L3.5 -7M7 3.5H-7L-3.5 7"/>',
    # what is called from outside
    "listener": (
        '<circle cx="0" cy="0" r="2"/><path d="M-4 -4A5.7 5.7 0 0 0 -4 4M4 -4A5.7 5.7 0 0 1 4 4'
        'M-6.8 -6.8A9.6 9.6 0 0 0 -6.8 6.8M6.8 -6.8A9.6 9.6 0 0 1 6.8 6.8"/>'
    ),
    # a tube
    "pipe": ('<ellipse cx="-6" cy="0" rx="2.2" ry="5"/><path d="M-6 -5H6C9 -5 9 5 6 5H-6"/>'),
    # a gear
    "process": (
        '<circle cx="0" cy="0" r="2.4"/><circle cx="0" cy="0" r="5.6"/>'
        '<circle cx="0" cy="0" r="7.3" stroke-width="2.6" stroke-linecap="butt"'
        ' stroke-dasharray="2.87 2.86"/>'
    ),
    # nothing
    "null": '<circle cx="0" cy="0" r="7"/><path d="M-4.95 4.95L4.95 -4.95"/>',
    # bytes of a made-up order
    "pattern": (
        '<path d="M-6.5 -6.5H-1.5V-1.5H-6.5ZM1.5 -6.5H6.5V-1.5H1.5Z'
        'M-6.5 1.5H-1.5V6.5H-6.5ZM1.5 1.5H6.5V6.5H1.5Z"/><path d="M-4 -4H-4M4 4H4"/>'
    ),
    # a number sign
    "digest": '<path d="M-2.5 -7.5L-4.5 7.5M4.5 -7.5L2.5 7.5M-7 -3H7.5M-7.5 3H7"/>',
    # a prompt
    "standard": '<path d="M-6.5 -5.5L-1 0L-6.5 5.5M1.5 6H7"/>',
    # one in, several out
    "proxy": (
        '<path d="M-8 0H-2C2 0 1 -6 5 -6H7M-2 0C2 0 1 6 5 6H7M-2 0H7'
        'M5 -8L7.2 -6L5 -4M5 -2L7.2 0L5 2M5 4L7.2 6L5 8"/>'
    ),
    # several in, one out
    "joint": '<path d="M-8 -6H-6C-2 -6 -2 0 1 0H8M-8 6H-6C-2 6 -2 0 1 0M5 -3L8 0L5 3"/>',
}
