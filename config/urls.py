"""Where everything is: the admin, the notifications API, the health and metrics pages, the sign-up page at the root."""

from importlib.util import find_spec

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

# The filter goes as soon as both apps have landed.
urlpatterns = [
    path("admin/", admin.site.urls),
    *(
        path(prefix, include(module))
        for prefix, module in (("notifications/", "notifications.urls"), ("", "jobs.urls"))
        if apps.is_installed(module.partition(".")[0]) and find_spec(module)
    ),
]
