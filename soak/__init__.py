"""Uses the plugin for a long time, roughly, and looks at what is lost or left behind.

`python -m soak` runs it. A *trial* does one kind of thing again and again (`trials`), most of them
sessions of pytest that `stage` starts, ends and looks after.
"""
