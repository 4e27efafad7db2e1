"""AMD's extensions for virtualization (SVM): AMD APM vol. 2, chapter 15 and appendix B."""
