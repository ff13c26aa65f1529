"""Busy machines are slow, which is no fault of what is tested."""

import hypothesis

hypothesis.settings.register_profile("polyhead", deadline=None)
hypothesis.settings.load_profile("polyhead")
