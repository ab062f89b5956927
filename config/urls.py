"""Where everything is: the admin, metrics and health, and notifications with its sign-up page at the root."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("jobs.urls")),
    path("", include("notifications.urls")),
]
