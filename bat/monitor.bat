@if not exist "%~dp0..\.venv\Scripts\python.exe" echo [ERROR] Run bat\start_model_training.bat --games 1 first; it sets up what is missing.& exit /b 1
@"%~dp0..\.venv\Scripts\python.exe" "%~dp0..\tools\monitor_background_training.py" %*
