from ._toy import toy as toy
