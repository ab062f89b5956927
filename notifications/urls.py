"""The sign-up page at the root, the links that mails contain, and the HTTP API."""

from django.contrib.auth.views import PasswordResetConfirmView
from django.urls import path, reverse_lazy
from django.views.generic import TemplateView

from . import api, events, signup

app_name = "notifications"
urlpatterns = [
    path("", signup.SignupView.as_view(), name="signup"),
    path("signup/<uuid:delivery_id>/", signup.signed_up, name="signed_up"),
    path(
        "password/<uidb64>/<token>/",
        PasswordResetConfirmView.as_view(
            template_name="notifications/password_reset.html",
            success_url=reverse_lazy("notifications:password_changed"),
        ),
        name="password_reset",
    ),
    path(
        "password/changed/",
        TemplateView.as_view(template_name="notifications/password_changed.html"),
        name="password_changed",
    ),
    path("notifications/events/", events.DeliveryEvents.as_view(), name="events"),
    path("notifications/emails/", api.emails, name="emails"),
    path("notifications/emails/<uuid:delivery_id>/", api.email, name="email"),
]
