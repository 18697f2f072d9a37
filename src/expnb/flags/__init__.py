"""Flag backends: the only place that changes what users see."""
